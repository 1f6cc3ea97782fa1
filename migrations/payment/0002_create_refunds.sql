-- transactional: false
CREATE TABLE refunds (
    order_id   CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    n          SMALLINT NOT NULL,
    request_id VARCHAR(128) CHARACTER SET ascii COLLATE ascii_bin NULL,
    amount     BIGINT NOT NULL,
    done       BOOLEAN NOT NULL DEFAULT FALSE,
    created_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    PRIMARY KEY (order_id, n),
    UNIQUE KEY once_per_request (order_id, request_id),
    CONSTRAINT refund_is_positive CHECK (amount > 0)
) ENGINE = InnoDB
