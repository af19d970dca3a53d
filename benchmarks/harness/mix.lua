-- Sends the requests that a service on the Internet gets: reads, writes, probes, and many invalid ones, hardly any of
-- them twice. Arguments: a file of lines "token<TAB>id,id,…", and a number that no other run has used.
-- At the end it prints one line of JSON with the number of responses of each class.

local users = {}
local run = "0"
local sent = 0
local threads = {}
responses_2, responses_3, responses_4, responses_5 = 0, 0, 0, 0

function setup(thread)
  table.insert(threads, thread)
end

function init(arguments)
  for line in io.lines(arguments[1]) do
    local token, ids = line:match("^(%S+)\t(%S+)$")
    local user = { token = token, ids = {} }
    for id in ids:gmatch("[^,]+") do table.insert(user.ids, id) end
    table.insert(users, user)
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

local function get(user, headers)
  if math.random(4) == 1 then headers["If-None-Match"] = '"' .. hex(8) .. '"' end
  return "GET", PROJECTS .. "/" .. any(user.ids)
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
local function anonymous(_, headers)
  headers["Authorization"] = nil
  return "GET", PROJECTS .. "/" .. uuid() .. "?" .. hex(8)
end
local function forged(user, headers)
  headers["Authorization"] = any({
    "Bearer " .. hex(math.random(1, 300)), "Bearer " .. user.token:sub(1, -9) .. hex(8), "Basic " .. hex(20),
  })
  return "GET", PROJECTS
end
local function missing(_, _)
  return "GET", PROJECTS .. "/" .. uuid()
end
-- No HEAD: wrk would wait for a body of the length that the response has.
local function unknown_path(_, _)
  return any({ "GET", "POST" }), any({ "/", "/wp-login.php/", PROJECTS .. "/x/", "/api/v1/" }) .. hex(10)
end
local function invalid(_, _)
  return "POST", PROJECTS, any({
    '{"name":""}', '{"name":"' .. hex(300) .. '"}', "{" .. hex(20), '{"' .. hex(8) .. '":1,"name":"x"}', "[]",
  })
end
local function unsupported_method(_, _)
  return any({ "PROPFIND", "LOCK", "MKCOL", "TRACE", "OPTIONS" }), PROJECTS .. "/" .. hex(8)
end

local KINDS = {}
for _, kind in ipairs({
  { get, 30 }, { list, 14 }, { create, 6 }, { probe, 14 }, { anonymous, 6 }, { forged, 8 }, { missing, 7 },
  { unknown_path, 8 }, { invalid, 5 }, { unsupported_method, 2 },
}) do
  for _ = 1, kind[2] do table.insert(KINDS, kind[1]) end
end

function request()
  sent = sent + 1
  local user = any(users)
  local headers = {
    ["Host"] = "127.0.0.1", ["Authorization"] = "Bearer " .. user.token, ["User-Agent"] = "mix/" .. hex(4),
  }
  if math.random(5) == 1 then headers["X-Request-ID"] = run .. "-" .. sent end
  if math.random(5) == 1 then headers["traceparent"] = "00-" .. hex(32) .. "-" .. hex(16) .. "-00" end
  local method, path, body = any(KINDS)(user, headers)
  if body ~= nil then headers["Content-Type"] = "application/json" end
  return wrk.format(method, path, headers, body)
end

function response(status, _, _)
  if status < 300 then responses_2 = responses_2 + 1
  elseif status < 400 then responses_3 = responses_3 + 1
  elseif status < 500 then responses_4 = responses_4 + 1
  else responses_5 = responses_5 + 1 end
end

function done(summary, _, _)
  local sums = { 0, 0, 0, 0 }
  for _, thread in ipairs(threads) do
    for i, name in ipairs({ "responses_2", "responses_3", "responses_4", "responses_5" }) do
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
