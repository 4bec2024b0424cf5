"""The engines that come with the product."""
