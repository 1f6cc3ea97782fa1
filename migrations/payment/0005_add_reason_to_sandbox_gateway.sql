-- transactional: false
ALTER TABLE sandbox_gateway
    -- Why a charge was declined. Of earlier rows it was not noted; they go on saying what they always said.
    ADD COLUMN reason VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NULL DEFAULT 'card_declined'
