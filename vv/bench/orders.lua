-- wrk -s orders.lua URL -- RUN SKU SKUS LINES
--   RUN    begins every idempotency key, so that no other run has it
--   SKU    what is bought; of SKUS > 1 it is what their names begin with, a dash and four digits following
--   LINES  different SKUs in a cart
-- Every part has a fixed width, so that Content-Length is the same for all requests.

-- Those that the full tables have, so that their indexes are hit where a shop's would be.
local USERS = 500000
local head, run, sku, skus, lines
local requests = 0

function init(args)
  run, sku, skus, lines = args[1], args[2], tonumber(args[3]), tonumber(args[4])
  local seed = 0
  for n = 1, #run do seed = (seed * 31 + run:byte(n)) % 2147483647 end
  math.randomseed(seed)
  head = table.concat({
    "POST " .. wrk.path .. " HTTP/1.1",
    "Host: " .. wrk.host .. (wrk.port and ":" .. wrk.port or ""),
    "Content-Type: application/json",
    "Content-Length: " .. #body(amount()),
    "Idempotency-Key: " .. run .. "-",
  }, "\r\n")
end

function amount()
  return 1999999
end

function body(total)
  local order = string.format('{"user_id":"user-%06d","total_amount":%d,', math.random(0, USERS - 1), total)
  if lines == 1 then return order .. '"sku":"' .. name(math.random(0, skus - 1)) .. '"}' end
  local items = {}
  local first, step = math.random(0, skus - 1), math.random(1, math.floor((skus - 1) / (lines - 1)))
  for n = 1, lines do
    items[n] = '{"sku":"' .. name((first + n * step) % skus) .. '","quantity":1}'
  end
  return order .. '"items":[' .. table.concat(items, ",") .. "]}"
end

function name(n)
  return skus == 1 and sku or string.format("%s-%04d", sku, n)
end

function request()
  requests = requests + 1
  return string.format("%s%09d\r\n\r\n%s", head, requests, body(amount()))
end

-- One line of JSON. The latencies come as they are: pairs of a latency in microseconds and how often it was seen.
function done(summary, latency)
  print(summary_of(summary, '"latencies":[' .. histogram_of(latency) .. "]"))
end

function summary_of(summary, more)
  local errors = summary.errors
  return string.format(
    '{"requests":%d,"duration_us":%d,"errors":{"connect":%d,"read":%d,"write":%d,"timeout":%d,"status":%d},%s}',
    summary.requests, summary.duration,
    errors.connect, errors.read, errors.write, errors.timeout, errors.status, more
  )
end

-- Through wrk's own structure: latency(n) begins at the first microsecond anew for each n, which takes seconds.
function histogram_of(latency)
  local ffi = require("ffi")
  ffi.cdef("typedef struct { uint64_t count, limit, min, max, data[]; } wrk_stats;")
  local stats = ffi.cast("wrk_stats **", latency)[0]
  if stats.count == 0 then return "" end
  local first, last = tonumber(stats.min), tonumber(stats.max)
  assert(first == latency.min and last == latency.max, "this wrk keeps its statistics in another way than wrk 4")
  local pairs_of = {}
  for us = first, last do
    local times = tonumber(stats.data[us])
    if times > 0 then pairs_of[#pairs_of + 1] = us .. "," .. times end
  end
  return table.concat(pairs_of, ",")
end
