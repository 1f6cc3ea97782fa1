-- transactional: false
CREATE TABLE order_lines (
    order_id CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    sku      VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    quantity INT NOT NULL,
    PRIMARY KEY (order_id, sku),
    CONSTRAINT line_quantity_is_positive CHECK (quantity > 0)
) ENGINE = InnoDB
