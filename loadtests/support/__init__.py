"""The parts that the suites share: schedule, scenarios, targets and reports."""
