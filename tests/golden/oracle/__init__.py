"""The reference: small models and the MoE layer, written for reading, in any float dtype."""
