-- transactional: false
DROP TABLE refunds
