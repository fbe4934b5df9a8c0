"""data/mock"""
