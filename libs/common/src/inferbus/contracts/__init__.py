"""Wire types, one file per conversation. Data only: no behaviour beyond reading and writing themselves."""
