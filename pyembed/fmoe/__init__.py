from _fmoe import *
