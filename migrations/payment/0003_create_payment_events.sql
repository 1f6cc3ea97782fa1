-- transactional: false
CREATE TABLE payment_events (
    order_id      CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    seq           SMALLINT NOT NULL,
    status        VARCHAR(20) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    amount        BIGINT NOT NULL,
    reason        VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NULL,
    trace_context CHAR(55) CHARACTER SET ascii COLLATE ascii_bin NULL,
    created_at    DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    PRIMARY KEY (order_id, seq)
) ENGINE = InnoDB
