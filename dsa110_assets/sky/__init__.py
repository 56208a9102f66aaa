"""The flux scale, calibrators, imported catalogues, and the sky model made from them."""
