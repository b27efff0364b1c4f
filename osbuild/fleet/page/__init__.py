"""The web page of the update server: complete without JavaScript, live with a little of it."""
