// Which endpoints miss their latency target, as the banner, the table and the chart all judge them.

// With fewer requests, the p95 is just the slowest one.
export const MIN_REQUESTS = 20;

// The host's routes have no target that we know, and reports and self-tests take as long as they take.
const TARGETED = ["projects", "auth", "probe"];
export const hasTarget = (each) => TARGETED.includes(each.kind);

// The p95 as a multiple of the target; null if there is nothing to compare.
export const ratio = (each) => (each.p95_ms === null || !hasTarget(each) ? null : each.p95_ms / each.target_ms);

export const isMeasured = (each) => ratio(each) !== null && each.count >= MIN_REQUESTS;

export const missesTarget = (each) => isMeasured(each) && each.p95_ms > each.target_ms;

// The endpoint that exceeds its target by the largest factor.
export const worst = (endpoints) =>
  endpoints.filter(missesTarget).sort((one, other) => ratio(other) - ratio(one))[0];
