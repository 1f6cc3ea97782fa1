"""The payment service: charged at most once; an unknown outcome stays unknown until the gateway was asked."""
