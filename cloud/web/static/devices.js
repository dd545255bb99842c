import { pollFragment } from "./fragments.js";

pollFragment("devices", "/devices/rows", 4000);
