//! The encryption of archives, in age's format (<https://age-encryption.org/v1>).
