-- transactional: false
ALTER TABLE payments
    -- Who buys. NULL where nobody said, as in earlier rows: nobody but staff may see those.
    ADD COLUMN user_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NULL
