"""Analysis: looks at a model and changes nothing: what writing did to each layer, and how sharp the minimum is."""

from pennyweight.analysis.blame import Blamed as Blamed
from pennyweight.analysis.blame import blame as blame
from pennyweight.analysis.look import MEASURES as MEASURES
from pennyweight.analysis.look import Look as Look
