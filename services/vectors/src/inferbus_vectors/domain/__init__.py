"""Pure decisions: no bus, no engine, no clock."""
