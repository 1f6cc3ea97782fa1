-- transactional: false
CREATE TABLE sandbox_gateway (
    entry_id   BIGINT NOT NULL AUTO_INCREMENT,
    -- What the sandbox really charged and refunded: the other side's books, never read by the payment service's own.
    gateway_key VARCHAR(128) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    kind       VARCHAR(8) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    charge_key VARCHAR(128) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    amount     BIGINT NOT NULL,
    currency   CHAR(3) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    approved   BOOLEAN NOT NULL,
    created_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    PRIMARY KEY (entry_id),
    UNIQUE KEY once_per_key (gateway_key)
) ENGINE = InnoDB
