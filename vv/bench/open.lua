-- wrk -s open.lua URL -- RUN SKU SKUS LINES RATE SECONDS LEAD
-- The load of orders.lua in an open loop: orders are due at random, RATE a second with exponential gaps, for SECONDS,
-- and nobody waits for a reply before the next one. The first LEAD seconds are for opening connections. Each connection
-- takes the next slot of one common schedule as soon as it is free. A latency is counted from the slot, or from when the
-- order was sent if that was earlier; the amount of an order tells the number of its slot, also in the reply.

dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "orders.lua")

local ffi = require("ffi")
ffi.cdef("typedef struct { long s, us; } wall_time; int gettimeofday(wall_time *, void *);")
local wall_time = ffi.new("wall_time")

local closed_init = init
-- An amount less this is the number of a slot.
local NO_SLOT = 1000000
local rate, last, due
-- wrk asks for one request beforehand, to look whether it is one, and init for another, to see how long it is.
local slots, sent = {}, -2
-- Read by done(), which runs in another Lua state.
latencies_us, lateness_us, planned = {}, {}, 0

local threads = {}
function setup(thread)
  threads[#threads + 1] = thread
end

function now_ms()
  ffi.C.gettimeofday(wall_time, nil)
  return tonumber(wall_time.s) * 1000 + tonumber(wall_time.us) / 1000
end

function init(args)
  closed_init(args)
  rate = tonumber(args[5]) / 1000
  due = now_ms() + tonumber(args[7]) * 1000
  last = due + tonumber(args[6]) * 1000
end

-- wrk's timers have milliseconds. An order goes out up to two of them before its slot (which keeps arrivals random)
-- rather than after it: what is late then, wrk itself was late with.
function delay()
  due = due - math.log(1 - math.random()) / rate
  if due > last then return 1e9 end
  planned = planned + 1
  slots[planned] = due
  return math.max(0, math.floor(due - now_ms()))
end

-- Slots are in the order of time, and so are the connections that come here.
function amount()
  sent = sent + 1
  local slot, now = slots[sent], now_ms()
  if slot then
    count(lateness_us, now - slot)
    slots[sent] = math.min(slot, now)
  end
  return NO_SLOT + math.max(0, sent)
end

function response(status, headers, body)
  local total = body:match('"total_amount": ?(%d+)')
  -- A reply without an amount is an error, which wrk counts.
  if total then count(latencies_us, now_ms() - slots[total - NO_SLOT]) end
end

function count(histogram, ms)
  local us = math.max(0, math.floor(ms * 1000))
  histogram[us] = (histogram[us] or 0) + 1
end

function done(summary)
  local thread = threads[1]
  print(summary_of(summary, string.format(
    '"planned":%d,"latencies":[%s],"lateness":[%s]',
    thread:get("planned"), pairs_of(thread:get("latencies_us")), pairs_of(thread:get("lateness_us"))
  )))
end

function pairs_of(histogram)
  local found = {}
  for us, times in pairs(histogram) do found[#found + 1] = us .. "," .. times end
  return table.concat(found, ",")
end
