// Requests to the API, authenticated by the session in the browser's cookies or by a token that is kept in memory only.

const TIMEOUT_MS = 10_000;
const config = document.documentElement.dataset;
let token = null;
let refreshing = null;

// A problem response (RFC 9457).
export class Problem extends Error {
  constructor(status, content, retryAfter) {
    super(content.detail ?? content.title ?? `Status ${status}`);
    this.status = status;
    this.code = content.code;
    this.retryAfter = retryAfter;
  }
}

// No response, or one that is not from this service, such as that of a proxy whose server is down.
export class Unreachable extends Error {}

export const hasTenants = config.tenants === "yes";

function csrfToken() {
  const name = `${config.csrfCookie}=`;
  const cookie = document.cookie.split("; ").find((each) => each.startsWith(name));
  return cookie ? cookie.slice(name.length) : "";
}

async function send(method, path, content) {
  const headers = { Accept: "application/json" };
  if (token) headers.Authorization = `Bearer ${token}`;
  if (method !== "GET" && csrfToken()) headers[config.csrfHeader] = csrfToken();
  if (content) headers["Content-Type"] = "application/json";
  const options = { method, headers, credentials: "same-origin", cache: "no-store" };
  if (content) options.body = JSON.stringify(content);
  try {
    const response = await fetch(path, { ...options, signal: AbortSignal.timeout(TIMEOUT_MS) });
    if (response.status === 204) return null;
    const body = await response.json();
    if (response.ok) return body;
    // Health uses 503 for a failing component; its body is health, not a problem.
    if (response.status === 503 && typeof body.status === "string") return body;
    throw new Problem(response.status, body, Number(response.headers.get("Retry-After")) || null);
  } catch (error) {
    throw error instanceof Problem ? error : new Unreachable(error.message);
  }
}

// An access token is valid for minutes and its session for hours: on 401, get a new one with the refresh cookie.
export async function read(path) {
  try {
    return await send("GET", path);
  } catch (error) {
    if (error.status !== 401 || token || !csrfToken()) throw error;
    refreshing ??= send("POST", "auth/refresh").finally(() => (refreshing = null));
    try {
      await refreshing;
    } catch (refreshError) {
      throw refreshError instanceof Problem && refreshError.status < 500 ? error : refreshError;
    }
    return send("GET", path);
  }
}

export const hasCredentials = () => token !== null || csrfToken() !== "";
export const hasToken = () => token !== null;

export async function logIn(form) {
  const content = { username: form.get("username"), password: form.get("password"), transport: "cookie" };
  if (hasTenants) content.tenant = form.get("tenant");
  token = null;
  await send("POST", "auth/login", content);
}

export function useToken(text) {
  token = text.trim().replace(/^bearer\s+/i, "");
}

export async function logOut() {
  if (token) token = null;
  else await send("POST", "auth/logout");
}
