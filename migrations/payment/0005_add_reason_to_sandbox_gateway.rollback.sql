-- transactional: false
ALTER TABLE sandbox_gateway DROP COLUMN reason
