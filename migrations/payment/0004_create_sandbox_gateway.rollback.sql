-- transactional: false
DROP TABLE sandbox_gateway
