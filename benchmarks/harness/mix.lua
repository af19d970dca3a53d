-- Sends what a service on the Internet gets: reads, writes, probes, and more that is wrong than right, hardly anything
-- of it twice. Arguments: a file of lines "token<TAB>id,id,…", and a number that no other run has had.
-- At the end one line of JSON says how many answers there were of each class.

local people = {}
local run = "0"
local sent = 0
local began = {}
answers_2, answers_3, answers_4, answers_5 = 0, 0, 0, 0

function setup(thread)
  table.insert(began, thread)
end

function init(arguments)
  for line in io.lines(arguments[1]) do
    local token, ids = line:match("^(%S+)\t(%S+)$")
    local person = { token = token, ids = {} }
    for id in ids:gmatch("[^,]+") do table.insert(person.ids, id) end
    table.insert(people, person)
  end
  run = arguments[2]
  math.randomseed(tonumber(run))
end

local function any(list) return list[math.random(#list)] end
local function hex(length)
  local digits = {}
  for i = 1, length do digits[i] = string.format("%x", math.random(0, 15)) end
  return table.concat(digits)
end
local function uuid()
  return hex(8) .. "-" .. hex(4) .. "-7" .. hex(3) .. "-8" .. hex(3) .. "-" .. hex(12)
end

local PROJECTS = "/api/v1/projects"

local function get(person, headers)
  if math.random(4) == 1 then headers["If-None-Match"] = '"' .. hex(8) .. '"' end
  return "GET", PROJECTS .. "/" .. any(person.ids)
end
local function list(_, _)
  local queries = {
    "?limit=" .. math.random(1, 50), "?q=" .. hex(3), "?status=active&limit=20", "?total=true&limit=5",
    "?sort=name&limit=" .. math.random(1, 20), "?" .. hex(6) .. "=" .. hex(6), "?cursor=" .. hex(24),
  }
  return "GET", PROJECTS .. any(queries)
end
local function create(_, headers)
  if math.random(3) == 1 then headers["Idempotency-Key"] = uuid() end
  local body = string.format(
    '{"name":"Project %s","description":"%s","tags":["%s"],"metadata":{"%s":%d}}',
    hex(8), hex(math.random(0, 400)), hex(6), hex(4), sent
  )
  return "POST", PROJECTS, body
end
local function probe(_, headers)
  headers["Authorization"] = nil
  return "GET", any({ "/api/v1/health/live", "/api/v1/health/live", "/api/v1/health/ready", "/api/v1/health" })
end
local function nobody(_, headers)
  headers["Authorization"] = nil
  return "GET", PROJECTS .. "/" .. uuid() .. "?" .. hex(8)
end
local function forged(person, headers)
  headers["Authorization"] = any({
    "Bearer " .. hex(math.random(1, 300)), "Bearer " .. person.token:sub(1, -9) .. hex(8), "Basic " .. hex(20),
  })
  return "GET", PROJECTS
end
local function missing(_, _)
  return "GET", PROJECTS .. "/" .. uuid()
end
-- No HEAD: wrk would wait for the body that its answer has the length of.
local function elsewhere(_, _)
  return any({ "GET", "POST" }), any({ "/", "/wp-login.php/", PROJECTS .. "/x/", "/api/v1/" }) .. hex(10)
end
local function invalid(_, _)
  return "POST", PROJECTS, any({
    '{"name":""}', '{"name":"' .. hex(300) .. '"}', "{" .. hex(20), '{"' .. hex(8) .. '":1,"name":"x"}', "[]",
  })
end
local function strange(_, _)
  return any({ "PROPFIND", "LOCK", "MKCOL", "TRACE", "OPTIONS" }), PROJECTS .. "/" .. hex(8)
end

local KINDS = {}
for _, kind in ipairs({
  { get, 30 }, { list, 14 }, { create, 6 }, { probe, 14 }, { nobody, 6 }, { forged, 8 }, { missing, 7 },
  { elsewhere, 8 }, { invalid, 5 }, { strange, 2 },
}) do
  for _ = 1, kind[2] do table.insert(KINDS, kind[1]) end
end

function request()
  sent = sent + 1
  local person = any(people)
  local headers = {
    ["Host"] = "127.0.0.1", ["Authorization"] = "Bearer " .. person.token, ["User-Agent"] = "mix/" .. hex(4),
  }
  if math.random(5) == 1 then headers["X-Request-ID"] = run .. "-" .. sent end
  if math.random(5) == 1 then headers["traceparent"] = "00-" .. hex(32) .. "-" .. hex(16) .. "-00" end
  local method, path, body = any(KINDS)(person, headers)
  if body ~= nil then headers["Content-Type"] = "application/json" end
  return wrk.format(method, path, headers, body)
end

function response(status, _, _)
  if status < 300 then answers_2 = answers_2 + 1
  elseif status < 400 then answers_3 = answers_3 + 1
  elseif status < 500 then answers_4 = answers_4 + 1
  else answers_5 = answers_5 + 1 end
end

function done(summary, _, _)
  local sums = { 0, 0, 0, 0 }
  for _, thread in ipairs(began) do
    for i, name in ipairs({ "answers_2", "answers_3", "answers_4", "answers_5" }) do
      sums[i] = sums[i] + thread:get(name)
    end
  end
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"requests":%d,"good":%d,"redirected":%d,"refused":%d,"failed":%d,"broken":%d}\n',
    summary.requests, sums[1], sums[2], sums[3], sums[4],
    errors.connect + errors.read + errors.write + errors.timeout
  ))
end
