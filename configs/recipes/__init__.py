"""Published training settings of methods, which `recipe=official` takes."""
