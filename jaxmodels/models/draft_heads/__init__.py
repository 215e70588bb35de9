"""Draft heads: small modules that draft the next tokens of a target model from what the target computed."""
