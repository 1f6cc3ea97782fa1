-- transactional: false
DROP TABLE payment_events
