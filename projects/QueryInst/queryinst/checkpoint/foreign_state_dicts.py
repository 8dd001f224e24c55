def install_state_dict_hook(model, allow_unloaded=()):
    pass
