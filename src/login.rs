//! The way to a refresh token and a first configuration.
