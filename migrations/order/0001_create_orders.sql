-- transactional: false
CREATE TABLE orders (
    order_id        CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    user_id         VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    status          VARCHAR(20) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    total_amount    BIGINT NOT NULL,
    currency        CHAR(3) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    payment_method  VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    reason          VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NULL,
    idempotency_key VARCHAR(128) CHARACTER SET ascii COLLATE ascii_bin NULL,
    fingerprint     CHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    -- Whoever writes must hold the version that he read; recovery raises it to take an order away from its driver.
    version         INT NOT NULL DEFAULT 1,
    last_seq        SMALLINT NOT NULL DEFAULT 1,
    -- How often recovery took the order up, or its driver gave it up to recovery.
    attempts        SMALLINT NOT NULL DEFAULT 0,
    -- NULL once the order is final, so that the index holds nothing but the work at hand.
    lease_until     DATETIME(6) NULL,
    created_at      DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    updated_at      DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    PRIMARY KEY (order_id),
    UNIQUE KEY once_per_idempotency_key (user_id, idempotency_key),
    KEY by_user (user_id, order_id),
    KEY by_status (status, order_id),
    KEY by_lease (lease_until),
    CONSTRAINT total_is_positive CHECK (total_amount > 0)
) ENGINE = InnoDB
