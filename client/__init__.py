"""One hospital: the thin ClientApp and the service that has the scans."""
