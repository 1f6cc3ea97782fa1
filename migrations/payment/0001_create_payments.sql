-- transactional: false
CREATE TABLE payments (
    order_id        CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    payment_id      CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    amount          BIGINT NOT NULL,
    currency        CHAR(3) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    payment_method  VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    status          VARCHAR(20) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    refunded_amount BIGINT NOT NULL DEFAULT 0,
    reason          VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NULL,
    version         INT NOT NULL DEFAULT 1,
    last_seq        SMALLINT NOT NULL DEFAULT 1,
    -- How often recovery took the payment up.
    attempts        SMALLINT NOT NULL DEFAULT 0,
    -- How often the gateway said that it does not know the charge.
    looks           SMALLINT NOT NULL DEFAULT 0,
    -- NULL while nothing is outstanding, so that the index holds nothing but the work at hand.
    lease_until     DATETIME(6) NULL,
    created_at      DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    updated_at      DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    PRIMARY KEY (order_id),
    KEY by_lease (lease_until),
    CONSTRAINT amount_is_not_negative CHECK (amount >= 0),
    CONSTRAINT never_refunded_more_than_charged CHECK (refunded_amount BETWEEN 0 AND amount)
) ENGINE = InnoDB
