"""Every atomic step on Redis, as a Lua script; `keys.py` tells what the keys hold.

Each leaves the same behind however often it runs with the same arguments, so that a caller who does
not know whether it ran may run it again. Commands of Redis 6.2. They are sent whole with EVAL: 1 KB
more on the wire is nothing beside an fsync, and no failover can have forgotten them.
"""

from __future__ import annotations

# Most entries of the queue whose keys one script may be given; bounds the time Redis is held up.
BATCH = 100

SUBMIT = """
-- Queues feedback, once.
-- KEYS  1 queue  2 view  3 index of all  4 request mark  5.. further indices
-- ARGV  1 id  2 record  3 account  4 content digest ('' without request id)
--       5 create_ms  6 milliseconds that the request mark lives
-- Gives {'queued' | 'repeated' | 'reused', id, create_ms}
if redis.call('EXISTS', KEYS[2]) == 1 then
  return {'queued', ARGV[1], ARGV[5]}
end
if ARGV[4] ~= '' then
  local first = redis.call('HMGET', KEYS[4], 'content', 'id', 'create_ms')
  if first[2] then
    return {first[1] == ARGV[4] and 'repeated' or 'reused', first[2], first[3]}
  end
  redis.call('HSET', KEYS[4], 'content', ARGV[4], 'id', ARGV[1], 'create_ms', ARGV[5])
  redis.call('PEXPIRE', KEYS[4], ARGV[6])
end
local entry = redis.call('XADD', KEYS[1], '*', 'id', ARGV[1], 'record', ARGV[2], 'attempt', '0')
redis.call('HSET', KEYS[2], 'record', ARGV[2], 'account', ARGV[3], 'moves', 1, 'entry', entry)
redis.call('ZADD', KEYS[3], 0, ARGV[1])
for i = 5, #KEYS do
  redis.call('ZADD', KEYS[i], 0, ARGV[1])
end
return {'queued', ARGV[1], ARGV[5]}
"""

KEEP_GENERATION = """
-- Keeps the record of a generation until it expires.
-- KEYS  1 generation  2 index of all  3 index of its author (absent without author)
-- ARGV  1 id  2 record  3 now, ms  4 milliseconds that the record lives
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[4])
for i = 2, #KEYS do
  redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', ARGV[3])
  redis.call('ZADD', KEYS[i], ARGV[3] + ARGV[4], ARGV[1])
  redis.call('PEXPIRE', KEYS[i], ARGV[4])
end
return 1
"""

PUBLISH_VIEW = """
-- Writes what became of a feedback, unless what stands there knows more.
-- KEYS  1 view  2.. indices it belongs to
-- ARGV  1 id  2 record  3 account  4 length of the account's history
local moves = redis.call('HGET', KEYS[1], 'moves')
if moves and tonumber(moves) > tonumber(ARGV[4]) then
  return 0
end
redis.call('HSET', KEYS[1], 'record', ARGV[2], 'account', ARGV[3], 'moves', ARGV[4])
for i = 2, #KEYS do
  redis.call('ZADD', KEYS[i], 0, ARGV[1])
end
return 1
"""

RESTORE = """
-- Queues feedback again that Redis has lost; does nothing if it still waits here.
-- KEYS  1 queue  2 view  3 dead
-- ARGV  1 id  2 record  3 attempt
local entry = redis.call('HGET', KEYS[2], 'entry')
if entry and (#redis.call('XRANGE', KEYS[1], entry, entry) > 0
    or #redis.call('XRANGE', KEYS[3], entry, entry) > 0) then
  return 0
end
entry = redis.call('XADD', KEYS[1], '*', 'id', ARGV[1], 'record', ARGV[2], 'attempt', ARGV[3])
redis.call('HSET', KEYS[2], 'entry', entry)
return 1
"""

BURY = """
-- Moves an entry from the queue to the dead letters.
-- KEYS  1 queue  2 dead  3 view
-- ARGV  1 group  2 entry  3 id  4 record  5 attempt  6 reason  7 deliveries
if #redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2]) == 0 then
  return 0
end
local entry = redis.call('XADD', KEYS[2], '*', 'id', ARGV[3], 'record', ARGV[4],
  'attempt', ARGV[5], 'reason', ARGV[6], 'deliveries', ARGV[7])
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
redis.call('XDEL', KEYS[1], ARGV[2])
if redis.call('EXISTS', KEYS[3]) == 1 then
  redis.call('HSET', KEYS[3], 'entry', entry)
end
return 1
"""

PUT_OFF = """
-- Moves an entry that was taken to the end of the queue, as one that nobody has taken.
-- KEYS  1 queue  2 view
-- ARGV  1 group  2 entry  3 id  4 record  5 attempt
if #redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2]) == 0 then
  return 0
end
local entry = redis.call('XADD', KEYS[1], '*', 'id', ARGV[3], 'record', ARGV[4],
  'attempt', ARGV[5])
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
redis.call('XDEL', KEYS[1], ARGV[2])
if redis.call('EXISTS', KEYS[2]) == 1 then
  redis.call('HSET', KEYS[2], 'entry', entry)
end
return 1
"""

PUT_BACK = """
-- Moves a dead letter back to the queue, as a new attempt.
-- KEYS  1 dead  2 queue  3 view
-- ARGV  1 entry  2 id  3 record  4 attempt
if redis.call('XDEL', KEYS[1], ARGV[1]) == 0 then
  return 0
end
local entry = redis.call('XADD', KEYS[2], '*', 'id', ARGV[2], 'record', ARGV[3],
  'attempt', ARGV[4])
if redis.call('EXISTS', KEYS[3]) == 1 then
  redis.call('HSET', KEYS[3], 'entry', entry)
end
return 1
"""

STATS = """
-- Tells how much waits, and for how long, by the clock of Redis.
-- KEYS  1 queue  2 dead
-- ARGV  1 group
-- Gives {entries, of these in the trainer's hands, dead letters, age of the oldest in ms}
local depth = redis.call('XLEN', KEYS[1])
local taken = redis.pcall('XPENDING', KEYS[1], ARGV[1])
local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)
local age = 0
if #oldest > 0 then
  local time = redis.call('TIME')
  age = time[1] * 1000 + math.floor(time[2] / 1000) - tonumber(string.match(oldest[1][1], '^%d+'))
end
return {depth, taken.err and 0 or taken[1], redis.call('XLEN', KEYS[2]), math.max(age, 0)}
"""

PRUNE_VIEW = """
-- Forgets a view that nobody has changed since it was read; the archive still has the feedback.
-- KEYS  1 view  2.. indices
-- ARGV  1 id  2 length of the account's history as it was read
if redis.call('HGET', KEYS[1], 'moves') ~= ARGV[2] then
  return 0
end
redis.call('DEL', KEYS[1])
for i = 2, #KEYS do
  redis.call('ZREM', KEYS[i], ARGV[1])
end
return 1
"""

ASK_ERASURE = """
-- Asks for the erasure of an author, once.
-- KEYS  1 erasure  2 open erasures
-- ARGV  1 digest of the request id  2 digest of the author  3 receipt  4 author
-- Gives {'asked' | 'repeated' | 'reused', receipt as it stands}
local first = redis.call('HMGET', KEYS[1], 'author_digest', 'receipt')
if first[2] then
  return {first[1] == ARGV[2] and 'repeated' or 'reused', first[2]}
end
redis.call('HSET', KEYS[1], 'author_digest', ARGV[2], 'receipt', ARGV[3], 'author', ARGV[4])
redis.call('SADD', KEYS[2], ARGV[1])
return {'asked', ARGV[3]}
"""

ERASE_VIEW = """
-- Puts a tombstone where a view was or might have been.
-- KEYS  1 view  2 index of all  3.. indices that it leaves
-- ARGV  1 id  2 record  3 account  4 length of the account's history
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'record', ARGV[2], 'account', ARGV[3], 'moves', ARGV[4])
redis.call('ZADD', KEYS[2], 0, ARGV[1])
for i = 3, #KEYS do
  redis.call('ZREM', KEYS[i], ARGV[1])
end
return 1
"""
