-- transactional: false
DROP TABLE order_events
