import importlib.util


def explore(draw, **controls):
    """A picture with controls that redraw it; the picture alone without ipywidgets."""
    if importlib.util.find_spec("ipywidgets") is None:
        print("This picture has controls after `pip install ipywidgets` and a restart.")
        return draw()
    from ipywidgets import interactive

    picture = interactive(draw, **controls)
    for control in picture.kwargs_widgets:
        if hasattr(control, "continuous_update"):
            control.continuous_update = False  # redraw once, when a slider is released
    return picture
