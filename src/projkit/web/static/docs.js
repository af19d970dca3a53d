// All URLs are relative, so that the page works offline and under any mount.
const config = document.documentElement.dataset;
const SAFE_METHODS = ["GET", "HEAD", "OPTIONS", "TRACE"];

function csrfToken() {
  const name = `${config.csrfCookie}=`;
  const cookie = document.cookie.split("; ").find((each) => each.startsWith(name));
  return cookie ? cookie.slice(name.length) : "";
}

// After a login with cookies, unsafe requests must repeat the CSRF cookie in a header.
function addCsrfToken(request) {
  const sameOrigin = new URL(request.url, location.href).origin === location.origin;
  const safe = SAFE_METHODS.includes((request.method ?? "GET").toUpperCase());
  const token = csrfToken();
  if (sameOrigin && !safe && token) request.headers[config.csrfHeader] = token;
  return request;
}

// Every operation has a dozen error responses of the same form, and headers that are the same for all. They are shown as
// one line each, until they are opened.
function CollapsedDetails({ React }) {
  const element = React.createElement;
  return {
    wrapComponents: {
      response: (Original) =>
        function Response(props) {
          const [open, setOpen] = React.useState(false);
          if (open || Number(props.code) < 400 || Number.isNaN(Number(props.code))) return element(Original, props);
          const description = props.response.get("description").replaceAll("`", "");
          const button = { type: "button", className: "collapsed", "aria-expanded": false, onClick: () => setOpen(true) };
          return element(
            "tr",
            { className: "response", "data-code": props.code },
            element("td", { className: "response-col_status" }, props.code),
            element("td", { className: "response-col_description", colSpan: 2 }, element("button", button, description)),
          );
        },
      headers: (Original) =>
        function Headers(props) {
          if (!props.headers?.size) return null;
          const names = element("summary", null, `Headers (${props.headers.size})`);
          return element("details", { className: "response-headers" }, names, element(Original, props));
        },
      operationLink: () =>
        function Link(props) {
          return element("div", { className: "response-link" }, props.name);
        },
    },
  };
}

SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  displayRequestDuration: true,
  tryItOutEnabled: true,
  validatorUrl: null,
  requestInterceptor: addCsrfToken,
  plugins: [CollapsedDetails],
});
