"""The Direct Device Integration API of Eclipse hawkBit, version 1: what devices ask and report."""
