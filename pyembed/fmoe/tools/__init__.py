"""Command-line tools: train -m fmoe.tools.NAME"""
