"""The HTTP door: translation between the OpenAI API and exchanges, one file per API family. No NATS here."""
