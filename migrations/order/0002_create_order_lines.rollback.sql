-- transactional: false
DROP TABLE order_lines
