-- transactional: false
DROP TABLE inventory
