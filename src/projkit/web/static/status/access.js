// Asking the server as whoever reads this page: by the session in its cookies, or by a token kept in memory alone.

const PATIENCE_MS = 10_000;
const root = document.documentElement.dataset;
let token = null;
let refreshing = null;

// An answer that says what is wrong (RFC 9457).
export class Problem extends Error {
  constructor(status, content, retryAfter) {
    super(content.detail ?? content.title ?? `Status ${status}`);
    this.status = status;
    this.code = content.code;
    this.retryAfter = retryAfter;
  }
}

// There was no answer, or none of this service: a proxy that stands alone, say.
export class Unreachable extends Error {}

function csrfToken() {
  const name = `${root.csrfCookie}=`;
  const found = document.cookie.split("; ").find((each) => each.startsWith(name));
  return found ? found.slice(name.length) : "";
}

async function send(method, path, content) {
  const headers = { Accept: "application/json" };
  if (token) headers.Authorization = `Bearer ${token}`;
  if (method !== "GET" && csrfToken()) headers[root.csrfHeader] = csrfToken();
  if (content) headers["Content-Type"] = "application/json";
  const options = { method, headers, credentials: "same-origin", cache: "no-store" };
  if (content) options.body = JSON.stringify(content);
  try {
    const answer = await fetch(path, { ...options, signal: AbortSignal.timeout(PATIENCE_MS) });
    if (answer.status === 204) return null;
    const body = await answer.json();
    if (answer.ok) return body;
    // Health says by 503 that something is down, and is an answer all the same.
    if (answer.status === 503 && typeof body.status === "string") return body;
    throw new Problem(answer.status, body, Number(answer.headers.get("Retry-After")) || null);
  } catch (error) {
    throw error instanceof Problem ? error : new Unreachable(error.message);
  }
}

// An access token lives for minutes, its session for hours: the session's refresh cookie gets the next one.
export async function read(path) {
  try {
    return await send("GET", path);
  } catch (error) {
    if (error.status !== 401 || token || !csrfToken()) throw error;
    refreshing ??= send("POST", "auth/refresh").finally(() => (refreshing = null));
    try {
      await refreshing;
    } catch (failed) {
      throw failed instanceof Problem && failed.status < 500 ? error : failed;
    }
    return send("GET", path);
  }
}

export const mayHaveSession = () => token !== null || csrfToken() !== "";
export const usesToken = () => token !== null;

export async function logIn(form) {
  const content = { username: form.get("username"), password: form.get("password"), transport: "cookie" };
  if (root.tenants === "yes") content.tenant = form.get("tenant");
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

export const wantsTenant = root.tenants === "yes";
