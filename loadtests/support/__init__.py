"""What the load suites share: a schedule, journeys over the API, targets and reports."""
