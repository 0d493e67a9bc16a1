"""Does every method, target, loader, folder and page keep its contract?"""
