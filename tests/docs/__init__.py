"""Pages of the documentation and the site made of them."""
