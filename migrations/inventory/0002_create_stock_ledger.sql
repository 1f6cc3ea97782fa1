-- transactional: false
CREATE TABLE stock_ledger (
    ledger_id  BIGINT NOT NULL AUTO_INCREMENT,
    request_id VARCHAR(128) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    kind       VARCHAR(8) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    -- Lines count from 1. Line 1 of a request that took nothing (refused, or rolled back before it arrived) has no
    -- SKU and no delta; it is what the late request collides with.
    line       SMALLINT NOT NULL,
    sku        VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NULL,
    delta      BIGINT NOT NULL,
    quantity   BIGINT NOT NULL,
    order_id   CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NULL,
    refusal    TEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL,
    created_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    PRIMARY KEY (ledger_id),
    UNIQUE KEY once_per_request (request_id, kind, line),
    KEY by_sku (sku),
    CONSTRAINT nothing_without_a_sku CHECK (sku IS NOT NULL OR delta = 0),
    CONSTRAINT ledger_quantity_is_never_negative CHECK (quantity >= 0)
) ENGINE = InnoDB
