"""The pages that come with the package: what each policy does, when to use it, and how it is proven."""
