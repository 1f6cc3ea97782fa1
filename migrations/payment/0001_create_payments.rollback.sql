-- transactional: false
DROP TABLE payments
