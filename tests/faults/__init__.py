"""Production faults, injected into servers that the tests start themselves."""
