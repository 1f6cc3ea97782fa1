-- transactional: false
DROP TABLE stock_ledger
