"""Pictures: the film strip of an iteration, and plots."""

from .film_strip import FilmStripVisualizer, draw_film_strip

__all__ = ["FilmStripVisualizer", "draw_film_strip"]
