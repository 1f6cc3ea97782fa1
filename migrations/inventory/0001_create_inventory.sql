-- transactional: false
CREATE TABLE inventory (
    sku        VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    product_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    quantity   BIGINT NOT NULL,
    -- Grows whenever a decision rests on the row, also one that changes nothing: Galera certifies written keys only.
    version    BIGINT NOT NULL DEFAULT 1,
    created_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    PRIMARY KEY (sku),
    KEY by_product (product_id),
    CONSTRAINT stock_is_never_negative CHECK (quantity >= 0)
) ENGINE = InnoDB
